"""What a person can mend: one clear sentence, exit code 2, never a traceback."""


class UserError(Exception):
    """Bad input. The message names the file or value and the remedy; the command line prints just that."""


class Lacking(UserError, ValueError):
    """A tokenizer without a token that an objective needs: perhaps found in a rehearsal, perhaps in a long window."""
