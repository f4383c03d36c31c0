# MuJoCo takes its names from a compiled module, in which pyright cannot look.
from typing import Any

def __getattr__(name: str) -> Any: ...
