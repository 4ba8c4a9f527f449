"""The first connection: where it shows whether an address leads anywhere."""

from __future__ import annotations

from everstep.errors import InvalidStoreURL
from everstep.stores.postgres import faults, link
from everstep.stores.postgres.address import FORM, Address
from everstep.stores.postgres.link import Link


async def reach(address: Address) -> Link:
    """Connect, without relying on anything but the protocol.

    Raises:
        InvalidStoreURL: The driver cannot make sense of the address.
        StoreUnavailable: The server cannot be reached, or does not let us in.
    """
    try:
        return await link.connect(address, is_pooled=True)
    except ValueError:
        # The error's own text may repeat any part of the URL.
        raise InvalidStoreURL(
            f"the driver cannot make sense of the store URL {address.shown} or of the PG… variables. Nothing was opened. "
            f"Use {FORM}, and write what is special in a password as %xx."
        ) from None
    except faults.OF_DRIVER as error:
        raise faults.translated(error, address) from error
