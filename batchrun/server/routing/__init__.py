"""From a method and a path to a handler: the router, the routes, and the call that a handler is given."""
