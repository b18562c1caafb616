"""The logs of a deployment's units: their files, their lines, and the start phases in them."""
