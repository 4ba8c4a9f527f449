"""Roles for tests: whoever drives runs connects as one that may do just that."""

from __future__ import annotations

from tests.postgres_server import PASSWORD, Server


class EngineRole:
    """A role that is given its rights in each new store."""

    name = "the_engine"

    def __init__(self, server: Server) -> None:
        self._server = server

    async def url(self, owner_url: str) -> str:
        """The URL of the store for this role; the owner makes it first, and grants."""
        from everstep.stores.postgres import PostgresStore, link, roles
        from everstep.stores.postgres.address import Address

        address = Address(owner_url)
        store = PostgresStore(owner_url)
        await store.open()
        await store.close()
        admin = await link.connect(address, is_pooled=True)
        if not await admin.fetch("SELECT 1 FROM pg_roles WHERE rolname = $1", self.name):
            await admin.execute(f"CREATE ROLE {self.name} LOGIN PASSWORD '{PASSWORD}'")
        await admin.execute(roles.statements(address.schema, self.name))
        await admin.close()
        return self._server.url(user=self.name, query=f"?schema={address.schema}")
