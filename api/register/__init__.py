"""What all nodes know alike: its entries, and how nodes exchange them."""
