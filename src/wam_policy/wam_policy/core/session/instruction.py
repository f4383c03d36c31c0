"""What a person asks for: text from outside, made safe to show, log and tokenise."""

import unicodedata


def clean_instruction(text: str, max_length: int) -> str:
    """Return one line of plain text; ValueError if it is longer than `max_length` characters.

    White space becomes single blanks. Control, format and unassigned characters go: they would
    reach terminals and logs, and no tokenizer was trained on them. What remains may be empty,
    which means stop and hold.
    """
    if len(text) > max_length:
        raise ValueError(
            f'instruction has {len(text)} characters, at most {max_length} are taken; shorten it'
        )
    plain = (
        character
        for character in ' '.join(text.split())
        if not unicodedata.category(character).startswith('C')
    )
    return ' '.join(''.join(plain).split())
