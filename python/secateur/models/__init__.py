"""Models of every framework, seen as named prunable parameters through one protocol, `view.ModelView`."""
