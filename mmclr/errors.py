"""The one kind of error that is the user's to mend: the CLI prints its sentence and no traceback."""


class UserError(Exception):
    """Says in one sentence what is wrong, where (file, key, shard, line), and what to do."""
