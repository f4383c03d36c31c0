"""Sanitize instructions for display, logging and tokenization."""

import unicodedata


def clean_instruction(text: str, max_length: int) -> str:
    """Return one line of plain text; raises ValueError above `max_length` characters.

    White space is replaced by single blanks. Control, format and unassigned characters are
    removed, because they would reach terminals and logs, and tokenizers are not trained on them.
    The result may be empty, which means stop and hold.
    """
    if len(text) > max_length:
        raise ValueError(f'instruction has {len(text)} characters, limit {max_length}; shorten it')
    plain = (
        character
        for character in ' '.join(text.split())
        if not unicodedata.category(character).startswith('C')
    )
    return ' '.join(''.join(plain).split())
