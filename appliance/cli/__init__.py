"""The command ``tandem``: it reads options and renders what other packages find."""
