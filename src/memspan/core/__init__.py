"""What every folder uses: errors, footprints, ledger, budget, catalogue, claims."""
