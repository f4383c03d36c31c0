"""One finding about a data set: what it is about, the value, the limit and the fix."""

from dataclasses import dataclass

ERROR, WARNING, NOTE = 'error', 'warning', 'note'


@dataclass(frozen=True, slots=True)
class Finding:
    """Describe one finding; an error prevents training."""

    level: str  # ERROR, WARNING or NOTE
    item: str  # file, episode, column or camera
    value: str
    limit: str = ''
    fix: str = ''

    def __str__(self) -> str:
        limit = f'; limit: {self.limit}' if self.limit else ''
        fix = f'; fix: {self.fix}' if self.fix else ''
        return f'{self.level}: {self.item}: {self.value}{limit}{fix}'
