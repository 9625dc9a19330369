"""One model's answer in words and tables: methods side by side, what holds the peak, how long."""
