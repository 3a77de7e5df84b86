"""The command line, a module for each group of commands. No Dagster process is needed for a prediction."""
