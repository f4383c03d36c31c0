"""Old option names still work and say which name replaces them; values are checked, passed on."""

from pathlib import Path

import pytest

from wam_policy.command_line import CommandParser, add_value, replace_deprecated, to_options

RENAMED = {'--driver': '--policy', '--rate': '--lr'}


def test_old_names_are_replaced_and_warned_about(capsys):
    given = ['--driver', 'mini', '--rate=0.1', '--steps', '3']
    assert replace_deprecated(given, RENAMED) == ['--policy', 'mini', '--lr=0.1', '--steps', '3']
    warnings = capsys.readouterr().err.splitlines()
    assert [line.split(': use ')[1] for line in warnings] == ['--policy', '--lr']


def test_new_names_values_and_what_follows_a_bare_double_dash_stay(capsys):
    given = ['--policy', 'driver', '--', '--driver']
    assert replace_deprecated(given, RENAMED) == given
    assert capsys.readouterr().err == ''


def test_a_parser_replaces_old_names_and_keeps_the_lines_of_its_description(capsys):
    parser = CommandParser('wam x', 'One line.\n\n  - another', {'--driver': '--policy'})
    parser.add_argument('--policy')
    assert parser.parse(['--driver', 'mini']).policy == 'mini'
    assert '\n  - another\n' in parser.format_help()
    assert 'use --policy' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('given', 'error'),
    [
        (['--max-n', '0'], '--max-n: want more than 0 s, got 0'),
        (['--max-n', 'nan'], '--max-n: want more than 0 s, got nan'),
        (['--report', 'nowhere/r.json'], '--report: no folder'),
    ],
)
def test_wrong_values_end_the_program_with_the_option_and_the_limit(given, error, capsys):
    parser = CommandParser('wam x')
    parser.add_argument('--max-n', type=float)
    parser.add_argument('--report', type=Path)
    options = parser.parse(given)
    with pytest.raises(SystemExit) as ended:
        parser.require_positive(options, 'max_n', unit=' s')
        parser.require_folders(options, 'report')
    assert ended.value.code == 2
    assert error in capsys.readouterr().err


def test_options_for_another_program_keep_zero_and_leave_out_what_is_not_given():
    values = {'seed': 0, 'rate': 0.0, 'base': '', 'steps': None, 'toy': True, 'sparse': False}
    words = to_options(values | {'policy_seconds': (1.0, 2.0)})
    assert words == ['--seed', '0', '--rate', '0.0', '--toy', '--policy-seconds', '1.0', '2.0']


def test_a_value_has_the_type_of_its_default_which_the_help_states():
    parser = CommandParser('wam x')
    add_value(parser.add_argument_group('limits'), '--max-n', 64, 'open at a time', 'N')
    add_value(parser, '--kind', 'a', 'of them', choices=('a', 'b'))
    assert vars(parser.parse(['--max-n', '3'])) == {'max_n': 3, 'kind': 'a'}
    assert 'open at a time (default: 64)' in parser.format_help()
    for wrong in (['--max-n', '0.5'], ['--kind', 'c']):
        with pytest.raises(SystemExit):
            parser.parse(wrong)
