"""What teachers say, asked once and kept: every arm and every later run reads it instead of asking again."""
