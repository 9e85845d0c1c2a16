//! Jobs against a real server: what the conformance suite cannot know.
