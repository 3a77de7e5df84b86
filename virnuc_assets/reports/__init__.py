"""What people open: the decision report; its charts and templates.

Draws and words what other packages computed; computes no criterion and reads no table of a project.
"""
