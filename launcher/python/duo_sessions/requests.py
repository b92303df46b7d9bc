"""What the two clients share: channels, requests, answers, when a call is tried again. No call is made here."""

import json
from dataclasses import dataclass, field
from typing import Any, Iterator, List, Optional, Sequence, Tuple, Union

import grpc

from . import duo_pb2 as pb

PIECE = 1 << 20  # bytes of a message of an append
HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"  # its answer

# Calls that change nothing are tried again where the server cannot be reached.
_READING = [{"service": "duo.v1.Sessions", "method": name} for name in ("List", "Get", "Tokenize", "TokenizeText")]
_READING += [{"service": "duo.v1.Cluster", "method": name} for name in ("Plan", "Stats")]
_RETRIED = {"maxAttempts": 4, "initialBackoff": "0.5s", "maxBackoff": "8s", "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"]}
OPTIONS: List[Tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": _READING, "retryPolicy": _RETRIED}]}))]


@dataclass
class Answer:
    """A whole answer."""
    text: str = ""
    tokens: List[int] = field(default_factory=list)
    finish: str = ""  # "stop", "eos" or "length"
    stats: pb.AskStats = field(default_factory=pb.AskStats)
    scores: List[Any] = field(default_factory=list)
    prompt_scores: List[Any] = field(default_factory=list)

    def add(self, part: pb.AskResponse) -> None:
        self.text += part.text
        self.tokens.extend(part.tokens)
        self.scores.extend(part.scores)
        self.prompt_scores.extend(part.prompt_scores)
        if part.done:
            self.finish, self.stats = part.finish, part.stats


def metadata(token: Optional[str]) -> Sequence[Tuple[str, str]]:
    return [("authorization", f"Bearer {token}")] if token else []


def credentials(ca: Optional[bytes], certificate: Optional[bytes], key: Optional[bytes]) -> Optional[grpc.ChannelCredentials]:
    return None if ca is None else grpc.ssl_channel_credentials(ca, key, certificate)


def text_bytes(text: Union[str, bytes]) -> bytes:
    return text.encode() if isinstance(text, str) else text


def received(session: pb.Session, append_id: str) -> int:
    """Bytes of this append that the server has already."""
    return session.append.received_bytes if session.append.append_id == append_id else 0


def create_request(session_id: str, max_tokens: int, durable: bool, reserved_tokens: int, chat: bool,
                   system: str) -> pb.CreateRequest:
    return pb.CreateRequest(id=session_id, max_tokens=max_tokens, durable=durable, reserved_tokens=reserved_tokens,
                            chat=chat or bool(system), system=system)


def pieces(first: pb.AppendRequest, data: bytes, begin: int) -> Iterator[pb.AppendRequest]:
    yield first
    for at in range(min(begin, len(data)), len(data), PIECE):
        yield pb.AppendRequest(offset=at, text=data[at:at + PIECE])


def tokenize_pieces(text: str, special: bool, begin_of_text: bool) -> Iterator[pb.TokenizePiece]:
    data = text.encode()
    for at in range(0, len(data), PIECE):
        yield pb.TokenizePiece(text=data[at:at + PIECE], special=special, begin_of_text=begin_of_text)


def ask_request(session_id: str, text: str, *, max_new_tokens: int = 128, temperature: float = 0, top_p: float = 1,
                seed: int = 0, stop: Sequence[str] = (), keep: bool = False, special: bool = False,
                **sampling: Any) -> pb.AskRequest:
    return pb.AskRequest(session_id=session_id, text=text, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p,
                         seed=seed, stop=stop, keep=keep, special=special, **sampling)


def is_broken(error: grpc.RpcError) -> bool:
    """The server could not be reached, or went away: what was asked may be tried again."""
    return error.code() == grpc.StatusCode.UNAVAILABLE


def pause(attempt: int) -> float:
    """Seconds before the next attempt."""
    return float(min(30, 2 ** attempt))
