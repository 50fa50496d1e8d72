"""A stand-in for the published node, written from the wire alone: `published_node.py PORT`.

It reads a request with one recv(1024) and a plain pickle.loads, answers with str(dict) and
no mark behind it, and says nothing at all to a request that it does not know.
"""

import pickle
import socket
import sys


class Transaction:
    pass


with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    while data := connection.recv(1024):
        request = pickle.loads(data)
        if request["request"] == "get_balance":
            answer = {"address": request["address"], "balance": 620}
        elif request["request"] == "transaction":
            print(sorted(vars(request["data"]).items()), len(request["signature"]), flush=True)
            answer = {"result": True, "result_message": "Authorized successfully!"}
        else:
            continue
        connection.sendall(str(answer).encode("utf8"))
