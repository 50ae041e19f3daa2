"""The command line: argv, environment, signals, stdout and exit codes; a thin shell over the library."""
