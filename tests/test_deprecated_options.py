"""Old option names still work and say which name replaces them."""

from wam_policy.deprecated_options import replace_deprecated

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
