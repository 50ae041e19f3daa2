"""JSON as a text in which something is looked for outside of strings."""

#: A string, from quote to quote. One without an end goes to the end of the text, and no part is tried twice (`*+`): a
#: text of others may open a quote at each character. For patterns with `re.DOTALL`.
JSON_STRING = r'"(?:\\.|[^"\\])*+(?:"|\\?\Z)'
