"""The encodings of policy servers by name, for transports that speak more than one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from wam_policy.servers.codecs import (
    groot_codec,
    json_numpy_codec,
    msgpack_codec,
    msgpack_numpy_codec,
    text_key_codec,
)
from wam_policy.servers.codecs.wire_arrays import MalformedMessage


@dataclass(frozen=True, slots=True)
class Codec:
    """One encoding: each function raises MalformedMessage, and neither evaluates nor unpickles."""

    pack: Callable[[Any], bytes]
    unpack: Callable[[str | bytes], Any]


CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        'openpi': Codec(msgpack_codec.pack, msgpack_codec.unpack),
        'text_keys': Codec(text_key_codec.pack, text_key_codec.unpack),
        'msgpack_numpy': Codec(msgpack_numpy_codec.pack, msgpack_numpy_codec.unpack),
        'groot': Codec(groot_codec.pack, groot_codec.unpack),
        'json_numpy': Codec(json_numpy_codec.pack, json_numpy_codec.unpack),
    }
)


def check_request(value: Any) -> dict[str, Any]:
    """Return a decoded request that is a map with string keys; raises MalformedMessage."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise MalformedMessage(f'want a map with string keys, got {type(value).__name__}')
    return value
