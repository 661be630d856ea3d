"""What Fuseline is measured against."""
