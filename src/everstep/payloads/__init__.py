"""
Payloads as they are stored: compressed, encrypted, redacted; and back. Off unless asked for.

What passes through workflow code is encoded once, in clear, in memory. On its way into a store every event goes through the
``Keeper`` of its run, which seals the fields that the table names; on its way back they are opened, and checked to be what they
claim to be. Stores, SQL and the hash chain only ever see the sealed form, which is JSON like everything else.

    config       what a program says: Payloads      keeper    the payloads of one run
    compression  smaller, and safe to expand        envelope  the form in which sealed values are stored
    encryption   AES-GCM, key ids, rotation
    redaction    what is cut out of texts           vault     single values sealed and opened
    table        which fields hold payloads         walk      secrets and look-alikes deep inside values
"""

from everstep.payloads.compression import Compression
from everstep.payloads.config import KEYS_VARIABLE, PLAIN, Payloads
from everstep.payloads.encryption import Encryption
from everstep.payloads.keeper import Keeper

__all__ = ["KEYS_VARIABLE", "PLAIN", "Compression", "Encryption", "Keeper", "Payloads"]
