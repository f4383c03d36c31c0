"""Faults of instructions: too many, too long, empty, with control characters."""

import threading
import unicodedata

from wam_tools.fault_injection.fault import INSTRUCTION, Fault, FaultTestBench

FLOOD_HZ, FLOOD_S = 1000.0, 1.5
MEGABYTE_TEXT = 'a' * 1_000_000
CONTROL_CHARACTER_TEXT = '\x1b[2J\x07 wave\u202e to\t the\r\n \u200blab\x7f\x9b'


def make_flood_fault(
    name: str, texts: tuple[str, ...], expect_rest: bool | None, note: str
) -> Fault:
    """Return a fault that publishes `texts` in turn at FLOOD_HZ."""

    def inject(bench: FaultTestBench) -> None:
        over = threading.Event()

        def speak() -> None:
            count = 0
            while not over.wait(1.0 / FLOOD_HZ):
                bench.client.publish_instruction(texts[count % len(texts)])
                count += 1

        thread = threading.Thread(target=speak, name='flood')
        thread.start()

        def end() -> None:
            over.set()
            thread.join()

        bench.undo.callback(end)

    return Fault(
        f'instruction/{name}',
        ('words',),
        inject,
        r'policy: WAITING_OBSERVATION.*no chunk of this session' if len(texts) > 1 else None,
        expect_rest,
        duration_s=FLOOD_S,
        check=find_response_error,
        note=note,
    )


def find_response_error(bench: FaultTestBench) -> str:
    """Return an error if the policy stopped publishing its status."""
    silent = bench.find_log_entry(r'watch: policy is silent', bench.client.metrics.start_s)
    return 'policy_node stopped publishing its status' if silent else ''


def find_sanitizing_error(bench: FaultTestBench) -> str:
    """Return an error if the status contains control characters of the instruction."""
    text = bench.client.policy.instruction
    control_characters = [
        f'U+{ord(c):04X}' for c in text if unicodedata.category(c).startswith('C')
    ]
    return f'the status contains {", ".join(control_characters)}' if control_characters else ''


FAULTS = (
    make_flood_fault(
        'the same words at 1 kHz', (INSTRUCTION,), False, 'the same words change nothing'
    ),
    make_flood_fault(
        'other words at 1 kHz',
        (INSTRUCTION, f'{INSTRUCTION} again'),
        None,
        'each starts a session; the robot does not move until they end',
    ),
    Fault(
        'instruction/1 MB',
        ('words',),
        lambda bench: bench.client.publish_instruction(MEGABYTE_TEXT),
        r'policy: .*1000000 characters',
        False,
    ),
    Fault(
        'instruction/empty',
        ('words',),
        lambda bench: bench.client.publish_instruction(''),
        r'policy: HOLDING: the instruction is empty',
        True,
    ),
    Fault(
        'instruction/control characters',
        ('words',),
        lambda bench: bench.client.publish_instruction(CONTROL_CHARACTER_TEXT),
        None,
        None,
        check=find_sanitizing_error,
        note='they are removed; the rest is an instruction',
    ),
)
