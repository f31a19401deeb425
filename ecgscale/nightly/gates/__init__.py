"""May what was explained tonight be published? Gates over counts and drift, and what they look at and say."""
