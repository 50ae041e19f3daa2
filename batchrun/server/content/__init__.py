"""What requests and answers carry: query parameters, bodies, items in their formats, the demo site's pages."""
