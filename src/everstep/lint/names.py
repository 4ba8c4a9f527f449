"""
Which names of the world outside break which rule. Tables, and the few conditions that a table cannot say.

A name is dotted from where it is defined, whatever the program calls it: ``datetime.datetime.now``. ``()`` stands for a call,
so ``requests.Session().get`` is a method of an object that a call made.
"""

from __future__ import annotations

from collections.abc import Mapping

from everstep.lint.rules import (
    BLOCKING,
    CHANCE,
    CLOCK,
    FILE,
    IDENTITY,
    LISTING,
    LOOP,
    NETWORK,
    PRINTS,
    SURROUNDINGS,
    THREAD,
    Rule,
)


def each(prefix: str, names: str) -> tuple[str, ...]:
    """The names of a list in words, behind a prefix."""
    return tuple(f"{prefix}{name}" for name in names.split())


# Functions and values: to mention one is enough (``key=time.time``).
_EXACT: Mapping[Rule, tuple[str, ...]] = {
    CLOCK: (
        *each("time.", "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns"),
        *each("time.", "thread_time thread_time_ns clock_gettime clock_gettime_ns"),
        *each("datetime.", "datetime.now datetime.utcnow datetime.today date.today"),
        "os.times",
        "django.utils.timezone.now",
    ),
    CHANCE: (*each("uuid.", "uuid1 uuid4 uuid6 uuid7"), "os.urandom", "os.getrandom"),
    THREAD: (
        *each("asyncio.", "to_thread run_coroutine_threadsafe create_subprocess_exec create_subprocess_shell"),
        *each("os.", "system popen fork forkpty posix_spawn kill killpg execv execve execvp execl execlp spawnv spawnl"),
        *each("anyio.", "to_thread.run_sync to_process.run_sync run_process open_process"),
        *each("_thread.", "start_new_thread"),
        "signal.signal",
    ),
    NETWORK: (
        *each("asyncio.", "open_connection start_server open_unix_connection start_unix_server"),
        *each("sqlalchemy.", "create_engine ext.asyncio.create_async_engine"),
        *each("urllib.request.", "urlopen urlretrieve"),
    ),
    FILE: (
        *each("builtins.", "open"),
        *each("io.", "open open_code FileIO"),
        *each("os.", "open read write remove unlink mkdir makedirs rename replace rmdir removedirs stat lstat access chmod"),
        *each("os.", "chown truncate fsync link symlink readlink utime chdir"),
        *each("os.path.", "exists lexists isfile isdir islink getsize getmtime getctime getatime realpath samefile"),
        *each("pathlib.Path.", "cwd home"),
        "os.getcwd",
    ),
    SURROUNDINGS: (
        *each("os.", "environ environb getenv getenvb putenv getpid getppid cpu_count getlogin uname getuid"),
        *each("sys.", "argv stdin"),
        *each("socket.", "gethostname getfqdn"),
        *each("platform.", "node uname platform"),
        *each("builtins.", "input breakpoint"),
        *each("threading.", "get_ident get_native_id current_thread"),
        *each("getpass.", "getuser getpass"),
        "uuid.getnode",
    ),
    BLOCKING: ("time.sleep",),
    LISTING: (
        *each("os.", "listdir scandir walk fwalk"),
        *each("glob.", "glob iglob"),
    ),
    IDENTITY: each("builtins.", "id hash"),
    LOOP: (
        *each("asyncio.", "run get_event_loop new_event_loop set_event_loop Runner"),
        *each("everstep.", "run Engine Client"),
        *each("anyio.", "run"),
        *each("uvloop.", "run install new_event_loop"),
    ),
    PRINTS: ("builtins.print", "pprint.pprint", "pprint.pp", "sys.stdout.write", "sys.stderr.write"),
}
EXACT: Mapping[str, Rule] = {name: rule for rule, names in _EXACT.items() for name in names}

# Modules of which every call breaks the rule. To mention one of their types (``except httpx.HTTPError``) does not.
_MODULES: Mapping[Rule, str] = {
    CHANCE: "random secrets numpy.random",
    THREAD: "threading multiprocessing subprocess concurrent.futures",
    NETWORK: (
        "socket ssl socketserver http.client http.server urllib.request urllib3 requests httpx aiohttp websockets smtplib "
        "ftplib imaplib poplib telnetlib xmlrpc.client grpc boto3 botocore redis sqlite3 psycopg psycopg2 psycopg_pool asyncpg "
        "aiosqlite pymongo motor pymysql aiomysql mysql.connector kafka aiokafka pika aio_pika openai anthropic paramiko"
    ),
    FILE: "shutil tempfile fileinput aiofiles anyio.Path",
}
MODULES: Mapping[str, Rule] = {module: rule for rule, modules in _MODULES.items() for module in modules.split()}

# Of these modules, but only values: nothing happens when they are made.
HARMLESS = frozenset(
    (
        "secrets.compare_digest",
        *each("httpx.", "URL Timeout Limits Headers QueryParams"),
        *each("aiohttp.", "ClientTimeout BasicAuth"),
        *each("socket.", "htons htonl ntohs ntohl inet_aton inet_ntoa inet_pton inet_ntop"),
        *each("redis.", "asyncio.retry.Retry retry.Retry"),
    )
)
# Of a seed nothing but the seed comes out.
SEEDED = frozenset({"random.Random", *each("numpy.random.", "default_rng RandomState SeedSequence Generator PCG64")})
# Without an argument they take the present instant.
NOW_IF_BARE = frozenset(each("time.", "localtime gmtime ctime asctime"))
PATH_METHODS: Mapping[str, Rule] = {
    **dict.fromkeys(
        [
            "read_text",
            "write_text",
            "read_bytes",
            "write_bytes",
            "open",
            "exists",
            "is_file",
            "is_dir",
            "is_symlink",
            "stat",
            "lstat",
            "mkdir",
            "rmdir",
            "unlink",
            "touch",
            "rename",
            "symlink_to",
            "hardlink_to",
            "readlink",
            "resolve",
            "chmod",
            "owner",
            "group",
            "samefile",
            "expanduser",
        ],
        FILE,
    ),
    **dict.fromkeys(["iterdir", "glob", "rglob", "walk"], LISTING),
}
# Methods that say by their name alone what they do, whatever the object.
METHODS: Mapping[str, Rule] = {
    **dict.fromkeys(["read_text", "write_text", "read_bytes", "write_bytes"], FILE),
    "iterdir": LISTING,
    "run_in_executor": THREAD,
    "run_until_complete": LOOP,
    "run_forever": LOOP,
}
LOGGERS = ("logging.", "structlog.", "loguru.")
LOG_METHODS = frozenset(["debug", "info", "warning", "warn", "error", "exception", "critical", "fatal", "log", "msg"])
_HARMLESS_ENDINGS = ("Error", "Exception", "Warning", "Interrupt")


def rule_of_mention(dotted: str) -> Rule | None:
    """The rule that mentioning a name breaks."""
    while dotted and dotted not in EXACT:
        dotted, _, last = dotted.rpartition(".")
        if last.endswith(")"):
            return None  # What a call made: the call itself was mentioned.
    return EXACT.get(dotted)


def rule_of_call(dotted: str, *, has_arguments: bool, was_made_here: bool, is_of_module: bool) -> Rule | None:
    """The rule that calling a name breaks.

    Args:
        dotted: The name.
        has_arguments: It is called with some.
        was_made_here: The object that it is a method of, if any, was made in workflow code, where making it was reported.
        is_of_module: That object belongs to the module, so it outlives the run.
    """
    last = dotted.rpartition(".")[2]
    if dotted in HARMLESS or last.endswith(_HARMLESS_ENDINGS):
        return None
    if dotted in NOW_IF_BARE:
        return None if has_arguments else CLOCK
    if dotted in SEEDED and has_arguments:
        return None
    if dotted.startswith("pathlib.Path()"):
        return PATH_METHODS.get(last)
    if dotted.startswith(LOGGERS):
        return PRINTS if last in LOG_METHODS else None
    rule = _rule_of_module(dotted)
    if "()" not in dotted:
        return rule
    return None if was_made_here or (rule is CHANCE and not is_of_module) else rule


def _rule_of_module(dotted: str) -> Rule | None:
    module = dotted.partition("(")[0]
    while module:
        module = module.rpartition(".")[0]
        if module in MODULES:
            return MODULES[module]
    return None
