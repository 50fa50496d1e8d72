"""A stand-in for the published client, written from the wire alone.

`published_client.py PORT PROTOCOL ADDRESS PRIVATE_KEY` asks for the balance of the address,
pays 2 coins with fee 1 to bob, sends a request that nobody knows, and prints the answers.
"""

import pickle
import socket
import sys

import rsa


class Transaction:
    def __init__(self, **fields):
        vars(self).update(fields)


port, protocol, address, private = sys.argv[1:]
pem = f"-----BEGIN RSA PRIVATE KEY-----\n{private}\n-----END RSA PRIVATE KEY-----\n"
key = rsa.PrivateKey.load_pkcs1(pem.encode())
fields = {"sender": address, "receiver": "bob", "amounts": 2, "fee": 1, "message": protocol}
signature = rsa.sign(str(fields).encode("utf-8"), key, "SHA-1")
payment = {"request": "transaction", "data": Transaction(**fields), "signature": signature}
with socket.create_connection(("127.0.0.1", int(port)), 30) as node:
    for request in {"request": "get_balance", "address": address}, payment, {"request": "hello"}:
        node.send(pickle.dumps(request, int(protocol)))
        print(node.recv(4096).decode("utf8"))
