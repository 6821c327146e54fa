"""A customer-service bot that answers from a list of questions and answers, in one SavedModel."""
