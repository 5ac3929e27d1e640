"""What is to be measured, as pure data: nothing here looks at a machine."""
