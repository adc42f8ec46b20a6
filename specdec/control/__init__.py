"""What passes cost, what drafts bring, and who should propose."""
