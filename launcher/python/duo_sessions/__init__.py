"""Client of `duo serve`.

    with Client("127.0.0.1:50051") as client:
        client.wait_until_ready()
        book = client.create(max_tokens=200_000)
        client.append(book.id, open("book.txt", "rb").read(), on_progress=print)
        print(client.ask(book.id, "\\nQuestion: Who is the narrator?\\nAnswer: ", stop=["\\n"]).text)
        client.close(book.id)

AsyncClient has the same methods, to be awaited. Errors are grpc.RpcError with the codes that duo.proto lists.
"""

from . import duo_pb2 as pb
from .aio import AsyncClient
from .client import Client
from .requests import Answer

__all__ = ["Answer", "AsyncClient", "Client", "pb"]
