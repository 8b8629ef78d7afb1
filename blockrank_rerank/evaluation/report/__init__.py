"""One collection measured from every side, as a page that stands alone and as numbers."""
