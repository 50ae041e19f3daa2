"""The endpoints, one module for each kind of resource; each offers `add_routes(table)`."""
