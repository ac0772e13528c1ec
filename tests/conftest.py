"""What every test can count on: no user's folders, no foreign Ray, no network beyond this machine."""
