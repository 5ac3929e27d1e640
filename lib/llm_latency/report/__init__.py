"""One voice and one look: phrases, figures, tables, pages."""
