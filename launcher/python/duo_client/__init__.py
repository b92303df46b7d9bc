"""Client of `duo serve`.

    with Client("127.0.0.1:50051") as client:
        book = client.create(max_tokens=200_000)
        client.append(book.id, open("book.txt", "rb").read(), on_progress=print)
        print(client.ask(book.id, "\\nQuestion: Who is the narrator?\\nAnswer: ", stop=["\\n"]).text)
        client.close(book.id)

Errors are grpc.RpcError with the codes that duo.proto lists. A Client may be used from several threads.
"""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple, Union

import grpc
from duo.v1 import duo_pb2 as pb
from duo.v1 import duo_pb2_grpc

__all__ = ["Answer", "Client", "pb"]

_PIECE = 1 << 20


@dataclass
class Answer:
    text: str
    tokens: List[int]
    finish: str  # "stop", "eos" or "length"
    stats: pb.AskStats
    scores: List[pb.TokenScore] = field(default_factory=list)
    prompt_scores: List[pb.TokenScore] = field(default_factory=list)


class Client:
    """One connection to a server. token: bearer token; ca, certificate, key: PEM bytes for TLS and mTLS."""

    def __init__(self, address: str, *, token: Optional[str] = None, ca: Optional[bytes] = None,
                 certificate: Optional[bytes] = None, key: Optional[bytes] = None) -> None:
        options = [("grpc.max_receive_message_length", -1)]
        if ca is not None:
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), options)
        else:
            self._channel = grpc.insecure_channel(address, options)
        self._metadata: Sequence[Tuple[str, str]] = [("authorization", f"Bearer {token}")] if token else []
        self._sessions = duo_pb2_grpc.SessionsStub(self._channel)
        self._cluster = duo_pb2_grpc.ClusterStub(self._channel)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Ends the connection; sessions stay."""
        self._channel.close()

    def create(self, session_id: str = "", *, max_tokens: int = 0, durable: bool = False,
               reserved_tokens: int = 0, chat: bool = False, system: str = "") -> pb.Session:
        request = pb.CreateRequest(id=session_id, max_tokens=max_tokens, durable=durable,
                                   reserved_tokens=reserved_tokens, chat=chat or bool(system), system=system)
        return self._sessions.Create(request, metadata=self._metadata)

    def append(self, session_id: str, text: Union[str, bytes], *, append_id: str = "", special: bool = False,
               seam: bool = False, on_progress: Optional[Callable[[pb.AppendProgress], None]] = None, retries: int = 5,
               timeout: Optional[float] = None) -> pb.AppendProgress:
        """Adds a document and waits until it is read. A broken connection is taken up again where it broke."""
        data = text.encode() if isinstance(text, str) else text
        append_id = append_id or uuid.uuid4().hex
        for attempt in range(retries + 1):
            try:
                first = pb.AppendRequest(session_id=session_id, append_id=append_id, special=special, seam=seam)
                return self._append_once(first, data, on_progress, timeout)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or attempt == retries:
                    raise
                time.sleep(min(30, 2 ** attempt))
        raise AssertionError("not reached")

    def _append_once(self, first: pb.AppendRequest, data: bytes,
                     on_progress: Optional[Callable[[pb.AppendProgress], None]],
                     timeout: Optional[float]) -> pb.AppendProgress:
        state = self.get(first.session_id).append
        begin = state.received_bytes if state.append_id == first.append_id else 0

        def pieces() -> Iterator[pb.AppendRequest]:
            yield first
            for at in range(min(begin, len(data)), len(data), _PIECE):
                yield pb.AppendRequest(offset=at, text=data[at:at + _PIECE])

        last = pb.AppendProgress()
        for last in self._sessions.Append(pieces(), metadata=self._metadata, timeout=timeout):
            if on_progress is not None:
                on_progress(last)
        return last

    def stream(self, session_id: str, text: str, *, max_new_tokens: int = 128, temperature: float = 0,
               top_p: float = 1, seed: int = 0, stop: Sequence[str] = (), keep: bool = False, special: bool = False,
               timeout: Optional[float] = None, **sampling: Any) -> Iterator[pb.AskResponse]:
        """The answer as it comes; the last message has done, finish and stats. Leaving the loop cancels the rest.
        sampling: further fields of AskRequest, as top_k, logit_bias or logprobs."""
        request = pb.AskRequest(session_id=session_id, text=text, max_new_tokens=max_new_tokens,
                                temperature=temperature, top_p=top_p, seed=seed, stop=stop, keep=keep, special=special,
                                **sampling)
        call = self._sessions.Ask(request, metadata=self._metadata, timeout=timeout)
        try:
            yield from call
        finally:
            call.cancel()

    def ask(self, session_id: str, text: str, **options: object) -> Answer:
        """The whole answer; options as in stream()."""
        answer = Answer("", [], "", pb.AskStats())
        for part in self.stream(session_id, text, **options):  # type: ignore[arg-type]
            answer.text += part.text
            answer.tokens.extend(part.tokens)
            answer.scores.extend(part.scores)
            answer.prompt_scores.extend(part.prompt_scores)
            if part.done:
                answer.finish, answer.stats = part.finish, part.stats
        return answer

    def fork(self, session_id: str, new_id: str = "", *, max_tokens: int = 0) -> pb.Session:
        return self._sessions.Fork(pb.ForkRequest(session_id=session_id, new_id=new_id, max_tokens=max_tokens),
                                   metadata=self._metadata)

    def rewind(self, session_id: str, tokens: int) -> pb.Session:
        return self._sessions.Rewind(pb.RewindRequest(session_id=session_id, tokens=tokens), metadata=self._metadata)

    def save(self, session_id: str) -> pb.SaveResponse:
        return self._sessions.Save(pb.SaveRequest(session_id=session_id), metadata=self._metadata)

    def restore(
        self, session_id: str, new_id: str = "", *, max_tokens: int = 0, reread: bool = False
    ) -> pb.RestoreResponse:
        request = pb.RestoreRequest(session_id=session_id, new_id=new_id, max_tokens=max_tokens, reread=reread)
        return self._sessions.Restore(request, metadata=self._metadata)

    def list(self) -> List[pb.Session]:
        return list(self._sessions.List(pb.ListRequest(), metadata=self._metadata).sessions)

    def get(self, session_id: str) -> pb.Session:
        return self._sessions.Get(pb.GetRequest(session_id=session_id), metadata=self._metadata)

    def close(self, session_id: str, *, delete_saved: bool = False) -> None:
        self._sessions.Close(pb.CloseRequest(session_id=session_id, delete_saved=delete_saved), metadata=self._metadata)

    def tokenize(self, text: str, *, special: bool = False, begin_of_text: bool = False) -> List[int]:
        request = pb.TokenizeRequest(text=text, special=special, begin_of_text=begin_of_text)
        return list(self._sessions.Tokenize(request, metadata=self._metadata).tokens)

    def plan(self) -> pb.PlanResponse:
        return self._cluster.Plan(pb.PlanRequest(), metadata=self._metadata)

    def stats(self) -> pb.StatsResponse:
        return self._cluster.Stats(pb.StatsRequest(), metadata=self._metadata)

    def drain(self, grace_seconds: float = 0) -> pb.DrainResponse:
        return self._cluster.Drain(pb.DrainRequest(grace_seconds=grace_seconds), metadata=self._metadata)
