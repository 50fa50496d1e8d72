"""Day 02: what a transaction, a block and a chain are made of."""

import dataclasses
import socket
import subprocess
import sys
import threading
import time

import pytest
from processes import ROOT

import blockchain_client
from blockchain_server import Block, BlockChain, Transaction


@pytest.mark.parametrize(
    "transaction", [Transaction, blockchain_client.Transaction], ids=["node", "client"]
)
def test_a_transaction_has_five_fields_that_cannot_change(transaction):
    names, values = "sender receiver amounts fee message", ("alice", "bob", 50, 1, "Thank you")
    payment = transaction(*values)
    assert vars(payment) == dict(zip(names.split(), values))
    with pytest.raises(dataclasses.FrozenInstanceError):
        payment.amounts = 51


def test_a_block_begins_empty_and_now_and_a_chain_with_the_numbers_of_the_series():
    before = int(time.time())
    block = Block("a hash", 3, "a miner", 10)
    assert type(block.timestamp) is int and before <= block.timestamp <= time.time()
    given = (block.previous_hash, block.difficulty, block.miner, block.miner_rewards)
    assert given == ("a hash", 3, "a miner", 10)
    assert (block.hash, block.nonce, block.transactions) == ("", 0, [])
    assert block.transactions is not Block("", 1, "", 10).transactions
    chain = BlockChain()
    assert (chain.adjust_difficulty_blocks, chain.difficulty, chain.block_time) == (10, 1, 30)
    assert (chain.miner_rewards, chain.block_limitation) == (10, 32)
    assert (chain.chain, chain.pending_transactions) == ([], [])
    assert chain.socket_host == "127.0.0.1"


def test_every_name_of_the_series_can_be_found():
    of_the_node = """
        adjust_difficulty_blocks difficulty block_time miner_rewards block_limitation chain
        pending_transactions socket_host socket_port create_genesis_block transaction_to_string
        get_transactions_string get_hash add_transaction_to_block mine_block adjust_difficulty
        get_balance verify_blockchain generate_address get_address_from_public
        extract_from_private add_transaction start start_socket_server
        wait_for_socket_connection receive_socket_message
    """
    of_the_client = """
        Transaction handle_receive generate_address get_address_from_public extract_from_private
        initialize_transaction transaction_to_string sign_transaction
    """
    assert [n for n in of_the_node.split() if not hasattr(BlockChain(), n)] == []
    assert [n for n in of_the_client.split() if not hasattr(blockchain_client, n)] == []


def test_a_chain_is_a_ledger_without_a_thread_or_a_port():
    threads = threading.enumerate()
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken_port = server.getsockname()[1]  # a second listener could not have it
        chain = BlockChain(taken_port)
    assert chain.socket_port == taken_port
    assert threading.enumerate() == threads


@pytest.mark.parametrize("script", ["blockchain_server", "blockchain_client"])
def test_importing_a_script_does_nothing(script):
    code = f"import threading, {script}; assert threading.active_count() == 1"
    python = [sys.executable, "-c", code]
    run = subprocess.run(python, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
