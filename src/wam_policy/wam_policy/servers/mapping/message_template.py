"""Messages of a server profile as templates: plain values with `$variables` in them.

In the YAML a text that starts with `$` is replaced by the variable's value, a map under the key
`*` is merged into the map around it, and `{$array: [30.0]}` is an array of float32.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

MERGE_KEY, ARRAY_KEY = '*', '$array'
VARIABLES = (
    'prompt',
    'session',
    'block',  # number of a block, counted from 0
    'step',  # control steps since the start of the episode
    'seed',
    'id',  # unique per request, a text
    'number',  # of the request, counted from 0
    'unix_time',  # s
    'iso_time',
    'observation',  # map of images, state and prompt
    'images',  # map of images
    'frames',  # the same as a list with one map per instant
    'executed',  # rows as they were executed, as answered
    'committed',  # rows that are executed until the answer comes, [delay columns], as answered
    'delay',  # their number; both are absent in the first query of a session
)


def find_unknown_variables(template: Any) -> list[str]:
    """Return the names of variables that no message has."""
    if isinstance(template, Mapping):
        if set(template) == {ARRAY_KEY}:
            return []
        return [name for value in template.values() for name in find_unknown_variables(value)]
    if isinstance(template, list | tuple):
        return [name for value in template for name in find_unknown_variables(value)]
    if isinstance(template, str) and template.startswith('$') and template[1:] not in VARIABLES:
        return [template]
    return []


def has_variable(template: Any, name: str) -> bool:
    """Return whether a template contains `$name`."""
    if isinstance(template, Mapping):
        return any(has_variable(value, name) for value in template.values())
    if isinstance(template, list | tuple):
        return any(has_variable(value, name) for value in template)
    return template == f'${name}'


def fill_template(template: Any, variables: Mapping[str, Any]) -> Any:
    """Return the message of a template; a variable without a value leaves its key out."""
    if isinstance(template, Mapping):
        if set(template) == {ARRAY_KEY}:
            return np.array(template[ARRAY_KEY], np.float32)
        message: dict[Any, Any] = {}
        for key, inner in template.items():
            if _is_absent(inner, variables):
                continue
            value = fill_template(inner, variables)
            if key == MERGE_KEY:
                message.update(value)
            else:
                message[key] = value
        return message
    if isinstance(template, list | tuple):
        return [fill_template(inner, variables) for inner in template]
    if isinstance(template, str) and template.startswith('$'):
        return variables[template[1:]]
    return template


def _is_absent(template: Any, variables: Mapping[str, Any]) -> bool:
    return (
        isinstance(template, str)
        and template.startswith('$')
        and variables.get(template[1:]) is None
    )
