"""Faults of what is said to the policy: too much, too long, nothing, and what is no text."""

import threading
import unicodedata

from wam_tools.fault_injection.fault import WORDS, Bench, Fault, nothing

FLOOD_HZ, FLOOD_S = 1000.0, 1.5
MEGABYTE = 'a' * 1_000_000
HOSTILE = '\x1b[2J\x07 wave\u202e to\t the\r\n \u200blab\x7f\x9b'


def flood(name: str, texts: tuple[str, ...], rests: bool | None, note: str) -> Fault:
    """Say `texts` in turn, a thousand times a second."""

    def inject(bench: Bench) -> None:
        over = threading.Event()

        def speak() -> None:
            count = 0
            while not over.wait(1.0 / FLOOD_HZ):
                bench.watch.say(texts[count % len(texts)])
                count += 1

        thread = threading.Thread(target=speak, name='flood')
        thread.start()

        def end() -> None:
            over.set()
            thread.join()

        bench.undo['flood'] = end

    return Fault(
        f'instruction/{name}',
        ('words',),
        inject,
        lambda bench: bench.undo.pop('flood')(),
        r'policy: WAITING_OBSERVATION.*no chunk of this session' if len(texts) > 1 else None,
        rests,
        lasts_s=FLOOD_S,
        check=answers,
        note=note,
    )


def answers(bench: Bench) -> str:
    """Complain where the node no longer tells what it does."""
    silent = bench.found(r'watch: policy is silent', bench.watch.figures.begun_s)
    return 'policy_node fell silent' if silent else ''


def shown(bench: Bench) -> str:
    """Complain where what was said reaches terminals and logs as it came."""
    text = bench.watch.policy.instruction
    ugly = [f'U+{ord(c):04X}' for c in text if unicodedata.category(c).startswith('C')]
    return f'the status shows {", ".join(ugly)}' if ugly else ''


FAULTS = (
    flood('the same words at 1 kHz', (WORDS,), False, 'the same words change nothing'),
    flood(
        'other words at 1 kHz',
        (WORDS, f'{WORDS} again'),
        None,
        'each begins a session; the robot follows none until they end',
    ),
    Fault(
        'instruction/1 MB',
        ('words',),
        lambda bench: bench.watch.say(MEGABYTE),
        nothing,
        r'policy: .*1000000 characters',
        False,
    ),
    Fault(
        'instruction/empty',
        ('words',),
        lambda bench: bench.watch.say(''),
        nothing,
        r'policy: HOLDING: the instruction is empty',
        True,
    ),
    Fault(
        'instruction/control characters',
        ('words',),
        lambda bench: bench.watch.say(HOSTILE),
        nothing,
        None,
        None,
        check=shown,
        note='they are taken out; what remains is an instruction',
    ),
)
