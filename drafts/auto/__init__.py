"""The drafter that chooses among drafters in every round."""
