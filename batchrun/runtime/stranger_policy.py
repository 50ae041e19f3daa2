"""How browsers treat what strangers wrote: items, stored values, records, logs."""

#: Content-Security-Policy: it runs nothing, has no access to the pages beside it, and loads nothing, which would tell a
#: stranger that it is looked at. Styles and small pictures in it stay, as in an SVG or a report.
STRANGER_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
