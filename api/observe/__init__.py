"""What a node can see of itself: each module looks at one thing, and none waits for another."""
