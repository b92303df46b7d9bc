"""The client for programs with threads."""

import time
import uuid
from typing import Any, Callable, Iterator, List, Optional, Union

import grpc

from . import duo_pb2 as pb
from . import duo_pb2_grpc, requests
from .requests import Answer

Progress = Callable[[pb.AppendProgress], None]


class Client:
    """One connection to a server. token: bearer token; ca, certificate, key: PEM bytes for TLS and mTLS. Any thread."""

    def __init__(self, address: str = "127.0.0.1:50051", *, token: Optional[str] = None, ca: Optional[bytes] = None,
                 certificate: Optional[bytes] = None, key: Optional[bytes] = None) -> None:
        secure = requests.credentials(ca, certificate, key)
        self._channel = (grpc.insecure_channel(address, requests.OPTIONS) if secure is None
                         else grpc.secure_channel(address, secure, requests.OPTIONS))
        self._metadata = requests.metadata(token)
        self._sessions = duo_pb2_grpc.SessionsStub(self._channel)
        self._cluster = duo_pb2_grpc.ClusterStub(self._channel)
        self._health = self._channel.unary_unary(requests.HEALTH)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Ends the connection; sessions stay."""
        self._channel.close()

    def ready(self) -> bool:
        """Whether the server takes work: its model is loaded, and it is not draining."""
        try:
            return self._health(b"", timeout=5) == requests.SERVING
        except grpc.RpcError:
            return False

    def wait_until_ready(self, timeout: float = 3600, *, on_wait: Optional[Callable[[float], None]] = None) -> None:
        """Waits for a server that is starting; on_wait is told the seconds so far. TimeoutError when they are over."""
        begun = time.monotonic()
        while not self.ready():
            waited = time.monotonic() - begun
            if waited > timeout:
                raise TimeoutError(f"the server was not ready within {timeout:.0f} s")
            if on_wait is not None:
                on_wait(waited)
            time.sleep(min(1.0, timeout / 10))

    def create(self, session_id: str = "", *, max_tokens: int = 0, durable: bool = False,
               reserved_tokens: int = 0, chat: bool = False, system: str = "") -> pb.Session:
        """chat: a conversation in the words of the model's template, with these words of its system's, if any."""
        request = requests.create_request(session_id, max_tokens, durable, reserved_tokens, chat, system)
        return self._sessions.Create(request, metadata=self._metadata)

    def append(self, session_id: str, text: Union[str, bytes], *, append_id: str = "", special: bool = False,
               seam: bool = False, on_progress: Optional[Progress] = None, retries: int = 5,
               timeout: Optional[float] = None) -> pb.AppendProgress:
        """Adds a document and waits until it is read. A broken connection is taken up again where it broke."""
        first = pb.AppendRequest(session_id=session_id, append_id=append_id or uuid.uuid4().hex, special=special, seam=seam)
        for attempt in range(retries + 1):
            try:
                return self._append_once(first, requests.text_bytes(text), on_progress, timeout)
            except grpc.RpcError as error:
                if not requests.is_broken(error) or attempt == retries:
                    raise
                time.sleep(requests.pause(attempt))
        raise ValueError("retries must be at least 0")

    def _append_once(self, first: pb.AppendRequest, data: bytes, on_progress: Optional[Progress],
                     timeout: Optional[float]) -> pb.AppendProgress:
        begin = requests.received(self.get(first.session_id), first.append_id)
        last = pb.AppendProgress()
        for last in self._sessions.Append(requests.pieces(first, data, begin), metadata=self._metadata,
                                          timeout=timeout):
            if on_progress is not None:
                on_progress(last)
        return last

    def stream(self, session_id: str, text: str, *, timeout: Optional[float] = None, **options: Any) -> Iterator[pb.AskResponse]:
        """The answer as it comes; the last message has done, finish and stats. Leaving the loop cancels the rest.
        options: fields of duo.proto's AskRequest: max_new_tokens (128), temperature (0), stop, keep, top_k, logprobs, .."""
        call = self._sessions.Ask(requests.ask_request(session_id, text, **options), metadata=self._metadata, timeout=timeout)
        try:
            yield from call
        finally:
            call.cancel()

    def ask(self, session_id: str, text: str, *, timeout: Optional[float] = None, **options: Any) -> Answer:
        """The whole answer; options as in stream()."""
        answer = Answer()
        for part in self.stream(session_id, text, timeout=timeout, **options):
            answer.add(part)
        return answer

    def fork(self, session_id: str, new_id: str = "", *, max_tokens: int = 0) -> pb.Session:
        return self._sessions.Fork(pb.ForkRequest(session_id=session_id, new_id=new_id, max_tokens=max_tokens), metadata=self._metadata)

    def rewind(self, session_id: str, tokens: int) -> pb.Session:
        return self._sessions.Rewind(pb.RewindRequest(session_id=session_id, tokens=tokens), metadata=self._metadata)

    def save(self, session_id: str) -> pb.SaveResponse:
        return self._sessions.Save(pb.SaveRequest(session_id=session_id), metadata=self._metadata)

    def restore(self, session_id: str, new_id: str = "", *, max_tokens: int = 0, reread: bool = False) -> pb.RestoreResponse:
        request = pb.RestoreRequest(session_id=session_id, new_id=new_id, max_tokens=max_tokens, reread=reread)
        return self._sessions.Restore(request, metadata=self._metadata)

    def list(self) -> List[pb.Session]:
        return list(self._sessions.List(pb.ListRequest(), metadata=self._metadata).sessions)

    def get(self, session_id: str) -> pb.Session:
        return self._sessions.Get(pb.GetRequest(session_id=session_id), metadata=self._metadata)

    def pin(self, session_id: str, pinned: bool = True) -> pb.Session:
        """Whether it stays in the KV cache when it is idle. Takes the role admin."""
        return self._sessions.Pin(pb.PinRequest(session_id=session_id, pinned=pinned), metadata=self._metadata)

    def close(self, session_id: str, *, delete_saved: bool = False) -> None:
        self._sessions.Close(pb.CloseRequest(session_id=session_id, delete_saved=delete_saved), metadata=self._metadata)

    def tokenize(self, text: str, *, special: bool = False, begin_of_text: bool = False) -> List[int]:
        """Of a text of any length."""
        if len(text) < requests.PIECE // 4:
            request = pb.TokenizeRequest(text=text, special=special, begin_of_text=begin_of_text)
            return list(self._sessions.Tokenize(request, metadata=self._metadata).tokens)
        tokens: List[int] = []
        for part in self._sessions.TokenizeText(requests.tokenize_pieces(text, special, begin_of_text), metadata=self._metadata):
            tokens.extend(part.tokens)
        return tokens

    def plan(self) -> pb.PlanResponse:
        return self._cluster.Plan(pb.PlanRequest(), metadata=self._metadata)

    def stats(self) -> pb.StatsResponse:
        return self._cluster.Stats(pb.StatsRequest(), metadata=self._metadata)

    def drain(self, grace_seconds: float = 0) -> pb.DrainResponse:
        return self._cluster.Drain(pb.DrainRequest(grace_seconds=grace_seconds), metadata=self._metadata)
