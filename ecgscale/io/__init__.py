"""Storage without knowledge of what is stored: places on a disk or in S3, whole objects, numbered JSON, settings."""
