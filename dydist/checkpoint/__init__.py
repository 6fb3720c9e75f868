"""dydist.checkpoint"""
