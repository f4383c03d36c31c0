"""A status on one line of a terminal; elsewhere only what changed."""

import io

from wam_tools.demo import ERASE_LINE, ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_newest_status_on_one_line() -> None:
    stream = Terminal()
    line = ProgressLine(stream)
    for second in range(3):
        line.show(second, 'workers load')
    line.print('page: http://x')
    line.show(3, 'x' * 500)
    line.close()
    line.close()
    text = stream.getvalue()
    assert text.count('\n') == 3 and text.count(ERASE_LINE) == 4
    assert 'workers load\npage: http://x\n' in text
    assert max(len(part) for part in text.split(ERASE_LINE)) < 200


def test_a_file_gets_each_status_once() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    for second in range(30):
        line.show(second, 'loading' if second < 20 else 'warming')
    line.print('done')
    line.show(31, 'warming')
    assert stream.getvalue() == ('    0 s  loading\n   20 s  warming\ndone\n   31 s  warming\n')
