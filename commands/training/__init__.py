"""What both training commands use: data sources, monitors, model folders."""
