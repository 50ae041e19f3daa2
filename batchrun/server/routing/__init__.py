"""From a method and a path to a handler: the route table, and the call that a handler gets."""
