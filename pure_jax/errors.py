"""The one exception for mistakes a user can mend: bad files, bad values, unreachable places."""


class PureError(Exception):
    """One clear sentence: what is wrong, with which file or value, and what to do about it.

    The command line prints it without a traceback and exits with status 2.
    """
