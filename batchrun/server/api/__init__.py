"""The endpoints: one module of handlers per kind of resource, each with `add_routes(table)`."""
