"""
Values to JSON bytes and back, by declared type: what is stored is readable, and comes back exactly as it was passed.

The journal outlives the process that wrote it, so an approximation made here would be found months later, in a resumed run. A
value that would not come back equal and of the same types is therefore refused when it is passed, with its path. Stored bytes
are data only: nothing in them is imported, evaluated or looked up by name, and no class outside the declared ones is built.

    node         what a type compiles to; limits
    scalars      leaves                           hints      annotations resolved
    tables       enums, flags, literals
    containers   lists, tuples, sets, dicts       compiler   annotation → node
    secrets      values that are never shown
    records      dataclasses and their kin        value      the codec of one type
    unions       natural where possible, tagged   arguments  the codec of one function's arguments
                                                  failures   exceptions as data
"""

from everstep.codec.arguments import ArgumentsCodec
from everstep.codec.failures import describe_error, rebuild_error
from everstep.codec.node import DEPTH_MAX, INT_DIGITS_MAX, VALUE_BYTES_MAX
from everstep.codec.value import Undecodable, UnknownType, ValueCodec, codec_for, result_codec
from everstep.records import ErrorRecord

__all__ = [
    "DEPTH_MAX",
    "INT_DIGITS_MAX",
    "VALUE_BYTES_MAX",
    "ArgumentsCodec",
    "ErrorRecord",
    "Undecodable",
    "UnknownType",
    "ValueCodec",
    "codec_for",
    "describe_error",
    "rebuild_error",
    "result_codec",
]
